"""The price of a stack that does nothing: what is billed each month before the first photo."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from importlib import resources
from typing import Any

FILES_GB = 1
"""GB on EFS that are counted in the small shape: the image's user writes Dagster's history there, nothing else."""


@dataclass(frozen=True)
class Line:
    """One kind of billed part: how many, and US dollars a month for all of them."""

    what: str
    number: int
    usd: float


@dataclass(frozen=True)
class MonthlyPrice:
    """A stack's price at idle, in us-east-1, by the prices of ``as_of``."""

    lines: tuple[Line, ...]
    as_of: date

    @property
    def usd(self) -> float:
        return sum(line.usd for line in self.lines)


def idle_price(template: Mapping[str, Any], values: Mapping[str, str]) -> MonthlyPrice:
    """The price of a template as `template.for_stack` returns it, with these parameters.

    It counts the resources that are billed by the hour or month: services' tasks, their public addresses, database,
    file system, load balancer, secrets, DNS zone and alarms. Photos, runs, logs and models come on top, by use.
    """
    prices = tomllib.loads(resources.files("bg_pipeline.deploy").joinpath("prices.toml").read_text("utf-8"))
    hourly, monthly, hours = prices["hour"], prices["month"], prices["hours_per_month"]
    found = template["Resources"]

    def of(kind: str) -> list[Mapping[str, Any]]:
        return [each["Properties"] for each in found.values() if each["Type"] == kind]

    architecture = values["CpuArchitecture"].lower()
    services = [found[each["TaskDefinition"]["Ref"]]["Properties"] for each in of("AWS::ECS::Service")]
    tasks = 0.0
    for task in services:
        cpu, memory = (_number(task[name], values) / 1024 for name in ("Cpu", "Memory"))
        tasks += cpu * hourly[f"vcpu_{architecture}"] + memory * hourly[f"gb_{architecture}"]
    balancers = of("AWS::ElasticLoadBalancingV2::LoadBalancer")
    public = len(services) if values["AssignPublicIp"] == "ENABLED" else 0
    # A load balancer has an address in each of its two subnets.
    public += 2 * len(balancers)
    databases = of("AWS::RDS::DBInstance")
    database = sum(
        hourly["db_t4g_micro"] * hours + int(each["AllocatedStorage"]) * monthly["database_gb"]
        for each in databases
    )
    per_balancer = (hourly["load_balancer"] + hourly["load_balancer_unit"]) * hours
    counted = (
        ("tasks of services (Fargate)", len(services), tasks * hours),
        ("public IPv4 addresses", public, public * hourly["public_ipv4"] * hours),
        ("PostgreSQL (RDS db.t4g.micro)", len(databases), database),
        (
            "file system (EFS)",
            len(of("AWS::EFS::FileSystem")),
            FILES_GB * monthly["files_gb"] * len(of("AWS::EFS::FileSystem")),
        ),
        ("load balancer", len(balancers), len(balancers) * per_balancer),
        *(
            (name, len(of(kind)), len(of(kind)) * monthly[price])
            for name, kind, price in (
                ("secrets", "AWS::SecretsManager::Secret", "secret"),
                ("private DNS zone", "AWS::ServiceDiscovery::PrivateDnsNamespace", "private_dns_zone"),
                ("alarms", "AWS::CloudWatch::Alarm", "alarm"),
            )
        ),
    )
    return MonthlyPrice(tuple(Line(*line) for line in counted if line[1]), prices["date"])


def _number(value: Any, values: Mapping[str, str]) -> float:
    return float(values[value["Ref"]] if isinstance(value, dict) else value)

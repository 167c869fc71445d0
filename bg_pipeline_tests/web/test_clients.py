"""Clients that public generators make from the OpenAPI document: in Python they work, in TypeScript they compile."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import DATE, Bench, aws
from bg_pipeline_tests.web.serving import served

pytestmark = pytest.mark.slow

TYPESCRIPT = ("openapi-typescript@7.13.0", "typescript@5.9.3")
USE = """
import type { paths, components } from "./api";
type Listed = paths["/batches"]["get"]["responses"][200]["content"]["application/json"];
const first = (listed: Listed): components["schemas"]["BatchStatus"] | undefined => listed.Batches[0];
const state: components["schemas"]["BatchState"] = "Reported";
type Body = NonNullable<paths["/batches"]["post"]["requestBody"]>["content"]["application/json"];
const body: Body = { Id: "a", Prompt: "x", InputS3Prefix: "image-files/2026/11/21/a" };
type Problem = components["schemas"]["ProblemDocument"];
export { first, state, body, type Problem };
"""


@pytest.fixture
def bench(bucket: str, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(aws().s3(bucket), bucket))


def test_a_generated_python_client_lists_plans_and_reviews(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openapi_python_client")
    bench.submit(2)
    bench.run()
    with served(bench.settings(), bench.store) as api:
        document = tmp_path / "openapi.json"
        document.write_bytes(requests.get(f"{api.address}/openapi.json", timeout=30).content)
        made = subprocess.run(
            [
                *(sys.executable, "-m", "openapi_python_client", "generate", "--fail-on-warning"),
                *("--path", document, "--output-path", tmp_path / "shop_client", "--meta", "none"),
            ],
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        monkeypatch.syspath_prepend(tmp_path)
        shop = importlib.import_module("shop_client")
        batches = importlib.import_module("shop_client.api.batches.batches_batches_get")
        review = importlib.import_module("shop_client.api.review.list_results_batches_date_name_review_get")
        status = importlib.import_module("shop_client.api.batches.status_batches_date_name_get")
        client = shop.Client(base_url=api.address, httpx_args={"trust_env": False})
        with client:
            (listed,) = batches.sync(client=client, from_=DATE, to=DATE).batches
            assert listed.state == "Reported"
            assert listed.counts["Succeeded"] == 2
            results = review.sync(DATE, "101530", client=client)
            assert len(results.items) == 2
            missing = status.sync_detailed(DATE, "nothing", client=client)
            assert missing.status_code == 404
            assert missing.parsed.type_ == "urn:bg-pipeline:NoSuchBatch"


def test_generated_typescript_compiles_under_the_strictest_rules(bench: Bench, tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    with served(bench.settings(), bench.store) as api:
        document = requests.get(f"{api.address}/openapi.json", timeout=30).json()
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    (tmp_path / "package.json").write_text("{}")
    install = [npm, "install", "--no-fund", "--no-audit", "--no-save", *TYPESCRIPT]
    installed = subprocess.run(
        install, cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False
    )
    if installed.returncode:
        pytest.skip(f"npm's packages cannot be installed here: {installed.stderr[-300:]}")
    tools = f"{tmp_path}/node_modules/.bin"
    (tmp_path / "use.ts").write_text(USE)
    for command in (
        [f"{tools}/openapi-typescript", "openapi.json", "-o", "api.ts"],
        [f"{tools}/tsc", "--noEmit", "--strict", "--exactOptionalPropertyTypes", "use.ts"],
    ):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

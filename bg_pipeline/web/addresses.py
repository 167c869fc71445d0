"""Checks the addresses on which the API and the page listen: without sign-in they serve this machine only."""

import ipaddress
from urllib.parse import urlsplit

from bg_pipeline.authorization import uses_groups
from bg_pipeline.errors import SettingsError
from bg_pipeline.settings import Settings

_PAGE_SIGN_IN = "BG_OIDC_ISSUER, BG_OIDC_CLIENT_ID, BG_OIDC_CLIENT_SECRET and BG_PAGE_ADDRESS"


def is_loopback(host: str) -> bool:
    """Whether ``host`` is a loopback address, or ``localhost``."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_api(settings: Settings, host: str) -> None:
    """Raises `SettingsError` if the API on ``host`` would be open to other machines without sign-in.

    Also for an incomplete sign-in, or an issuer without HTTPS.
    """
    if bool(settings.oidc_issuer) != bool(settings.oidc_audience) and not settings.oidc_client_id:
        missing = "BG_OIDC_AUDIENCE" if settings.oidc_issuer else "BG_OIDC_ISSUER"
        raise SettingsError(f"{missing} is not set: sign-in needs both BG_OIDC_ISSUER and BG_OIDC_AUDIENCE")
    signs_in = bool(settings.oidc_issuer and settings.oidc_audience)
    _check_groups(settings, "BG_OIDC_ISSUER and BG_OIDC_AUDIENCE", signs_in=signs_in)
    if not signs_in and not is_loopback(host):
        raise _open_to_all(host, "BG_OIDC_ISSUER and BG_OIDC_AUDIENCE")
    _check_issuer(settings)


def check_page(settings: Settings, host: str) -> None:
    """As `check_api`, for the page, which has sign-in if ``BG_OIDC_CLIENT_ID`` is set."""
    _check_groups(settings, _PAGE_SIGN_IN, signs_in=bool(settings.oidc_client_id))
    if not settings.oidc_client_id:
        if not is_loopback(host):
            raise _open_to_all(host, _PAGE_SIGN_IN)
        return
    needed = {
        "BG_OIDC_ISSUER": settings.oidc_issuer,
        "BG_OIDC_CLIENT_SECRET": settings.oidc_client_secret.get_secret_value(),
        "BG_PAGE_ADDRESS": settings.page_address,
    }
    if missing := [name for name, value in needed.items() if not value]:
        raise SettingsError(
            f"BG_OIDC_CLIENT_ID is set: sign-in to the page needs {', '.join(missing)} as well"
        )
    _check_issuer(settings)
    page = urlsplit(settings.page_address)
    if page.scheme == "http" and not is_loopback(page.hostname or ""):
        raise SettingsError("BG_PAGE_ADDRESS must be an https:// address, to protect the sign-in cookie")


def _check_groups(settings: Settings, needed: str, *, signs_in: bool) -> None:
    if uses_groups(settings) and not signs_in:
        raise SettingsError(
            "groups have rights (BG_SUBMITTER_GROUPS, BG_REVIEWER_GROUPS, BG_PUBLISHER_GROUPS, BG_ADMIN_GROUPS), but "
            f"without sign-in nobody's groups are known: set {needed}, or unset the groups for this process"
        )


def _check_issuer(settings: Settings) -> None:
    issuer = urlsplit(settings.oidc_issuer)
    if issuer.scheme == "http" and not is_loopback(issuer.hostname or ""):
        raise SettingsError(
            "BG_OIDC_ISSUER must be an https:// address, to protect the keys that verify tokens"
        )


def _open_to_all(host: str, needed: str) -> SettingsError:
    return SettingsError(
        f"sign-in is off, so everybody who can reach {host} could spend your money: set {needed}, "
        "or serve on 127.0.0.1 only"
    )

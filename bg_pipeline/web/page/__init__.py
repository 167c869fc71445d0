"""The web page: photos dropped, a background asked for, results looked through, without opening Dagster."""

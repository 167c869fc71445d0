"""The commands of ``bg-pipeline``; a module has one command, or a few that belong together."""

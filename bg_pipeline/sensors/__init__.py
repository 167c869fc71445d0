"""The sensors: uploads start runs, people hear what came of them, forgotten uploads are told."""

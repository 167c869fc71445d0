"""What is true of upload dates after their runs, judged in sentences that say what to do."""

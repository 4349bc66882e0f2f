"""What is claimed of cloning, and the verdicts that recorded runs give."""

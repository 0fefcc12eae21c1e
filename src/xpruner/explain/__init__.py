"""What the masks say, what a model looks at, and who pays for what was removed."""

"""What the pages of evidence show beyond the documents of commands: gates round by round, the tree of versions, studies."""

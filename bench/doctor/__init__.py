"""What `bench doctor --plugin NAME` looks at: the rules that every plug-in keeps, built-in or a stranger's."""

"""What `bench doctor` looks at: the installation, and with `--plugin NAME` the rules that every plug-in keeps."""

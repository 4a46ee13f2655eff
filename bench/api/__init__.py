"""What `import bench` offers in Python: attacks on one's own networks, and the commands' work from a notebook."""

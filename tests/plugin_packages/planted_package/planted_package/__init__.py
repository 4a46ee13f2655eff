"""A stranger's package that loads and runs: of each kind a sound plug-in, and the same with one fault each."""

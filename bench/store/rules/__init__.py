"""The checks of `bench audit`, as data: what each needs, its rule beside its words, what it may mean, its source."""

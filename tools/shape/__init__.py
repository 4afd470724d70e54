"""The shape of the code in figures: how long, how entangled, how much state; of this tree, and of a commit before."""

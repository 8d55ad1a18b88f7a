"""Several trials of one architecture in one program, with a member axis on every tensor."""

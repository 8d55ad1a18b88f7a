"""The coordinate check: whether outputs, updates and gradients keep their size at every scale."""

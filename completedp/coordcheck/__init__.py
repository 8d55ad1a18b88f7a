"""The coordinate check: does a model keep its size, its change and its gradients over scale?"""

"""The observe op on a GPU, in the Triton language. Imported only where there is one.

`fold` reads the activation and leaves partial results in scratch, each program where no other writes;
`merge` adds them to the tap's state in an order that depends on nothing but the shape, so equal inputs
give equal bits. Only the histogram, whose sums are integers, is added atomically.
"""

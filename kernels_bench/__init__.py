"""How fast are the paged-attention kernels, and how far from the hardware's limit?"""

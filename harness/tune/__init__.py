"""How are the flags of an engine tuned, in few starts and without claiming what was not shown?"""

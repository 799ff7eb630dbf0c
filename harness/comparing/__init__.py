"""Is a new run better or worse than an old one, stage by stage and measure by measure?"""

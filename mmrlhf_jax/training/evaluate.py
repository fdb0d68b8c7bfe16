def run(config): return {}

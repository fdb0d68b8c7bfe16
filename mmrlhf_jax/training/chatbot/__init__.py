"""The chatbot that hears the tone: its data for each stage, its evaluation, and the whole run."""

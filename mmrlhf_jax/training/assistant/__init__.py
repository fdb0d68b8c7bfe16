"""An assistant that acts: a policy follows instructions in rooms that it sees."""

"""One cell on several processes, and a batch in several pieces, with the results of one."""

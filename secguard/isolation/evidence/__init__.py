"""What a scan leaves behind: captures of both ends, a signed list of every file, and the folder that holds them."""

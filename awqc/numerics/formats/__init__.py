"""Weight formats: how a matrix of weights is stored in few bits. One file a format."""

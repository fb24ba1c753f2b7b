"""What is in a checkpoint's file: reading it without running code of its author's, its formats, writing it whole."""

"""What is known of other libraries, one file for each; imported only when it is needed."""

"""What cyoptim knows of other libraries; each module is imported only when it is needed."""

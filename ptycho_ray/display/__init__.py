"""Every picture and every report that a person looks at."""

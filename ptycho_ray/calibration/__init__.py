"""What the patterns of an electron microscope tell about the microscope, before anything is solved."""

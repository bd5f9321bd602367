"""Everything that needs Ray. The core below never imports it."""

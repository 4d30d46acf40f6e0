"""The global tables behind one interface."""

"""What learns: networks of our own as kernels, a forecast of temperatures, a policy, an eye for the unusual."""

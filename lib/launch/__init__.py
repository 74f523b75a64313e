"""Many runs: a sweep's file, its points, and where they are run."""

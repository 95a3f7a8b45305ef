"""What the process that others are copies of has loaded: imported there and nowhere else."""

import django

django.setup()

"""Looks for primes. Try: bin/cronium-supervisor exec etc/examples/hello.py"""

import platform
import time

import cronium

print(f"Hello from Python {platform.python_version()}")

primes = []
for number in range(2, 50):
    if all(number % prime for prime in primes):
        primes.append(number)
    if number % 10 == 0:
        print(f"up to {number}: {len(primes)} primes")
        cronium.progress(number * 2, f"up to {number}")
        time.sleep(0.2)

cronium.output({"primes": primes})

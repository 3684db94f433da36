"""The code sandbox as others see it: what is asked, what is answered, and a client."""

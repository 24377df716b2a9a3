"""The authors' own networks: PaddleClas's architectures, and files of weights as Paddle writes them."""

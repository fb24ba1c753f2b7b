import torch


class FakeQuantizer(torch.nn.Module):
    pass

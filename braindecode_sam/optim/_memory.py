"""What a variant of SAM remembers from step to step, saved with the optimizer."""

import torch


class Memory:
    """Tensors for each parameter, and numbers.

    The optimizer's own ``state`` cannot hold them: base optimizers take a state that
    is not empty for one that they have initialized.

    Attributes
    ----------
    vectors : dict of str to dict of torch.Tensor to torch.Tensor
        For each name a tensor for some parameters.
    numbers : dict of str to float
        For each name a number.
    """

    def __init__(self):
        self.vectors = {}
        self.numbers = {}

    def vector(self, name, params):
        """Give a tensor for each parameter, zeros where there was none.

        Parameters
        ----------
        name : str
            Of the vector.
        params : list of torch.Tensor
            Parameters.

        Returns
        -------
        vector : list of torch.Tensor
            To be changed in place.
        """
        known = self.vectors.setdefault(name, {})
        for p in params:
            if p not in known:
                known[p] = torch.zeros_like(p)
        return [known[p] for p in params]

    def state_dict(self, params):
        """Give all in tensors and builtins, with positions in place of parameters."""
        vectors = {
            name: [known.get(p) for p in params] for name, known in self.vectors.items()
        }
        return {"vectors": vectors, "numbers": dict(self.numbers)}

    def load_state_dict(self, state_dict, params):
        """Take over copies of what `state_dict` gave for as many parameters."""
        self.numbers = dict(state_dict.get("numbers", {}))
        self.vectors = {
            name: {
                p: value.detach().clone().to(p)
                for p, value in zip(params, vector, strict=True)
                if value is not None
            }
            for name, vector in state_dict.get("vectors", {}).items()
        }

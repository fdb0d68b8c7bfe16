"""Modality dropout: in training whole modalities are left out, so that none is leant on alone."""

import jax


def drop_modalities(present_BxM: jax.Array, rate: float | jax.Array, key: jax.Array) -> jax.Array:
    """The modality mask with each modality of each row left out with probability `rate`.

    A row keeps at least one of the modalities that it has: where chance would leave out all of them, one
    stays, each as likely as the other. `rate` may be traced. This is ModDrop, Neverova et al. 2016
    (arXiv:1501.00102).

    >>> masks = Masks(drop_modalities(present_BxM, 0.3, key), {"text": mask_BxT})
    """
    luck_BxM = jax.random.uniform(key, present_BxM.shape)
    luckiest_Bx1 = luck_BxM.max(axis=1, keepdims=True, where=present_BxM, initial=0.0)
    return present_BxM & ((luck_BxM >= rate) | (luck_BxM == luckiest_Bx1))

"""What a config names of the encoder: attention over the features of frames, and recurrent cells."""

from __future__ import annotations

from geohf.tiles.attention import LightTemporalAttention, TemporalAttention
from geohf.tiles.cells import Cell, ConvGRUCell, ConvLSTMCell, RecurrentEncoder
from geohf.tiles.configuration import TileSequenceConfig
from geohf.tiles.dates import DATE_FEATURES, PLANES


def attention_over_time(config: TileSequenceConfig) -> LightTemporalAttention | TemporalAttention:
    """For features of frames, `config.hidden_sizes[-1]` wide."""
    width, date_size = config.hidden_sizes[-1], DATE_FEATURES if config.dates else 0
    if config.encoder == "ltae":
        return LightTemporalAttention(width, config.frames, config.dropout, date_size)
    layers, heads = config.attention_layers, config.attention_heads
    return TemporalAttention(width, config.frames, layers, heads, config.dropout, date_size)


def recurrent_encoder(config: TileSequenceConfig) -> RecurrentEncoder:
    """ConvLSTM or ConvGRU over frames, with planes for dates where the model sees them."""
    planes = PLANES if config.dates else 0
    inputs = [config.bands * config.patch_size**2 + planes, *config.hidden_sizes[:-1]]
    cells: list[Cell] = []
    for layer in zip(inputs, config.hidden_sizes, config.kernel_sizes, strict=True):
        gru = config.encoder == "convgru"
        cells.append(ConvGRUCell(*layer) if gru else ConvLSTMCell(*layer, config.peephole))
    return RecurrentEncoder(cells, config.norm, config.patch_size)

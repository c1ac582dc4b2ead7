"""Where samples come from: arrays, files, folders, functions and iterables.

columns     samples of one array, read by index       ArrayColumn · MemberColumn · FileColumn
arrays      .npz, .npy, .bin and mappings             → columns by name
folder      the folder layouts                        → columns by name
binary      raw and headed .bin files                 → one file's samples
feeds       anything that yields feeds                → a stream of arrays by name
"""

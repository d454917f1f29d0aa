//! Control plane: references, instants, requests, answers and failures as types.

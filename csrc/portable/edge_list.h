// The strongest partners of one gene, kept while candidates pass by in ascending order of gene.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace corrmask {

struct Edge {
  float strength;  // |r|, or r where only positive correlation counts
  float weight;    // r
  int32_t gene;
};

// Room for `capacity` edges, strongest first; of equal ones the lower gene stands first, because it came first.
struct EdgeList {
  Edge* edges;       // [capacity]
  int32_t capacity;  // top_k
  int32_t size;      // edges held
  float least;       // a candidate of this strength is admitted while there is room
  float to_exceed;   // once full: a candidate must exceed this

  CORRMASK_HOST_DEVICE bool admits(float strength) const {  // false for NaN
    return size < capacity ? strength >= least : strength > to_exceed;
  }

  CORRMASK_HOST_DEVICE void insert(Edge edge) {
    int32_t place = size < capacity ? size++ : capacity - 1;
    for (; place > 0 && edges[place - 1].strength < edge.strength; --place) edges[place] = edges[place - 1];
    edges[place] = edge;
    to_exceed = edges[size - 1].strength;
  }
};

}  // namespace corrmask

// The strongest partners of one gene, kept while candidates pass by in any order.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace corrmask {

struct Edge {
  float strength;  // |r|, or r where only positive correlation counts
  float weight;    // r
  int32_t gene;
};

// Stronger first, of equal ones the lower gene.
CORRMASK_HOST_DEVICE bool stands_before(const Edge& a, const Edge& b) {
  return a.strength != b.strength ? a.strength > b.strength : a.gene < b.gene;
}

// Room for `capacity` edges, in order.
struct EdgeList {
  Edge* edges;       // [capacity]
  int32_t capacity;  // top_k
  int32_t size;      // edges held
  float least;       // below this a candidate cannot be admitted: min_corr, and once full the weakest edge held

  CORRMASK_HOST_DEVICE void offer(const Edge& edge) {
    if (!(edge.strength >= least)) return;  // NaN goes too
    if (size == capacity && !stands_before(edge, edges[size - 1])) return;
    int32_t place = size < capacity ? size++ : capacity - 1;
    for (; place > 0 && stands_before(edge, edges[place - 1]); --place) edges[place] = edges[place - 1];
    edges[place] = edge;
    if (size == capacity) least = edges[size - 1].strength;
  }
};

}  // namespace corrmask

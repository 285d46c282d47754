/* A pack of an open push that another push adopts. Push 1 stores pack P, and ends without a backup or is ended; push 2 finds P
   among the packs of unfinished runs and references it. Two collections condemn packs that neither a backup nor an open push
   holds. Pushes don't do W4a.

   Left out one at a time, each of these gives a counterexample:
     BUG_RUNS_FIRST  G1 lists runs before packs: a pack of an open push is condemned
     BUG_OWN_PACKS   G1 doesn't spare packs of open pushes: likewise
     BUG_NO_GRACE    no G4: the pack is removed under push 2                                               */
#define NONE 0
#define COMMIT 1
#define ABORT 2

bool intent[3]; byte outcome[3]; bool refs[3]; bool tombstone[3];
bool was = false; bool pack = false;     /* P was stored, P is stored */
bool mark[2]; bool hasty = false;        /* P was condemned while push 1 was open, or its backup valid */

#define VALID(r) (intent[r] && outcome[r] == COMMIT && !tombstone[r])

proctype Owner() {
  byte end;
  atomic { intent[1] = true };                                          /* W1 */
  atomic { pack = true; was = true; refs[1] = true };                   /* W4 */
  if :: end = COMMIT :: end = ABORT :: end = NONE fi;                   /* NONE: killed */
  if
  :: end != NONE -> atomic { if :: outcome[1] == NONE -> outcome[1] = end :: else fi }  /* W5 */
  :: else
  fi
}

proctype Adopter() {
  byte g = 0; bool may;
  atomic { intent[2] = true };                                          /* W1 */
  atomic { may = pack };                                                /* W2 */
  do :: g < 2 -> atomic { if :: mark[g] -> may = false :: else fi }; g++ :: else -> break od;
  if :: may -> refs[2] = true :: skip fi;                               /* W3 */
  atomic { if :: outcome[2] == NONE -> outcome[2] = COMMIT :: else fi } /* W5 */
}

proctype Delete(byte r) { if :: atomic { outcome[r] == COMMIT -> tombstone[r] = true } :: skip fi }

proctype Collect(byte me) {
  byte r; bool listed; bool held = false; bool open1; bool live = false; bool grace[3];
#ifndef BUG_RUNS_FIRST
  atomic { listed = pack };                                             /* G1: packs, */
#endif
  atomic { open1 = (intent[1] && outcome[1] == NONE); held = (VALID(1) && refs[1]) };  /* then runs */
  atomic { held = held || (VALID(2) && refs[2]) };
#ifdef BUG_RUNS_FIRST
  atomic { listed = pack };
#endif
#ifdef BUG_OWN_PACKS
  open1 = false;
#endif
  if :: !listed || held || open1 -> goto out :: else fi;
  atomic { mark[me] = true; hasty = hasty || (intent[1] && outcome[1] == NONE) || VALID(1) };  /* G2 */
  r = 1;
  do :: r < 3 -> atomic { grace[r] = (intent[r] && outcome[r] == NONE) }; r++ :: else -> break od;  /* G3 */
#ifndef BUG_NO_GRACE
  r = 1;
  do                                                                    /* G4 */
  :: r < 3 ->
     if
     :: !grace[r] -> r++
     :: grace[r] ->
        if
        :: atomic { outcome[r] != NONE -> r++ }
        :: atomic { outcome[r] == NONE -> outcome[r] = ABORT }
        fi
     fi
  :: else -> break
  od;
#endif
  r = 1;
  do :: r < 3 -> atomic { if :: VALID(r) && refs[r] -> live = true :: else fi }; r++ :: else -> break od;  /* G5 */
  if :: live -> skip :: else -> atomic { pack = false } fi;             /* G6 */
out: skip
}

proctype Fence() { if :: atomic { intent[1] && outcome[1] == NONE -> outcome[1] = ABORT } :: skip fi }

init { atomic { run Owner(); run Adopter(); run Fence(); run Delete(1); run Collect(0); run Collect(1) } }

ltl safe { [] !((VALID(1) && refs[1] && was && !pack) || (VALID(2) && refs[2] && !pack) || hasty) }

/* The WAL horizon. One segment S, stored from the start, which backup 0 needs; backup 0 may be deleted. One push would
   start at S too, as that of a standby whose last restartpoint is old does. Two collections, of which one may sleep on what
   it found. The archiver may store S again: names of WAL files, unlike those of packs, come again.

   NO_GRACE leaves out G4, and all holds: an open push counts in G5 as a backup does.

   Left out one at a time, each of these gives a counterexample:
     BUG_NO_CHECK   W2 begins below the horizon of a mark
     BUG_NO_ANEW    G5 removes what lies below the mark's horizon without computing it anew
     BUG_NO_MARK    G6 removes what nothing needs, whether or not a mark says so
     BUG_REAPED     G7 removes the mark with the highest horizon                                           */
#define NONE 0
#define COMMIT 1
#define ABORT 2

bool stored = true;
bool intent[2]; byte outcome[2]; bool tombstone[2];
bool mark[2];                    /* a mark with a horizon above S */

#define VALID(r) (intent[r] && outcome[r] == COMMIT && !tombstone[r])
#define OPEN(r) (intent[r] && outcome[r] == NONE)

proctype Push() {
  byte g = 0; bool may = true; bool there;
  atomic { intent[1] = true };                                          /* W1 */
#ifndef BUG_NO_CHECK
  do :: g < 2 -> atomic { if :: mark[g] -> may = false :: else fi }; g++ :: else -> break od;  /* W2 */
#endif
  if :: may -> atomic { stored = true } :: skip fi;                     /* the archiver */
  atomic { there = stored };                                            /* W4 */
  if
  :: may && there -> atomic { if :: outcome[1] == NONE -> outcome[1] = COMMIT :: else fi }     /* W5 */
  :: else -> atomic { if :: outcome[1] == NONE -> outcome[1] = ABORT :: else fi }
  fi
}

proctype Delete(byte r) { if :: atomic { outcome[r] == COMMIT -> tombstone[r] = true } :: skip fi }

proctype Collect(byte me) {
  byte r; bool needed = false; bool grace; bool condemned;
  r = 0;                                                                /* G1 */
  do :: r < 2 -> atomic { if :: VALID(r) || OPEN(r) -> needed = true :: else fi }; r++ :: else -> break od;
#ifndef BUG_NO_MARK
  if :: !needed -> atomic { mark[me] = true } :: else fi;               /* G2 */
#endif
  atomic { grace = OPEN(1) };                                           /* G3 */
#ifndef NO_GRACE
  do                                                                    /* G4 */
  :: grace ->
     if
     :: atomic { outcome[1] != NONE -> grace = false }
     :: atomic { outcome[1] == NONE -> outcome[1] = ABORT }
     fi
  :: else -> break
  od;
#endif
  condemned = mark[me];
#ifdef BUG_NO_MARK
  condemned = true;
#endif
  needed = false; r = 0;                                                /* G5 */
#ifndef BUG_NO_ANEW
  do :: r < 2 -> atomic { if :: VALID(r) || OPEN(r) -> needed = true :: else fi }; r++ :: else -> break od;
#endif
  if :: condemned && !needed -> atomic { stored = false } :: else fi;   /* G6 */
#ifdef BUG_REAPED
  atomic { mark[0] = false }; atomic { mark[1] = false }                /* G7, by a collection that saw both */
#endif
}

init {
  atomic {
    intent[0] = true; outcome[0] = COMMIT;
    run Push(); run Delete(0); run Collect(0); run Collect(1)
  }
}

ltl safe { [] !((VALID(0) || VALID(1)) && !stored) }

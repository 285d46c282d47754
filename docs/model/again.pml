/* A pack whose name comes again: it was collected, and stands once more, since a repair brought it back, or a request to store it
   was long under way (Late). Backup 2 needs it, and is deleted; the run that stored it is gone. Run 3 would need it: an undelete of
   backup 2, or with -DCOPY a copy that stores the pack itself, under its name. Two collections may sleep anywhere. Nobody fences
   but collections; pushes don't do W4a but for the pack's presence.

   Left out one at a time, each of these gives a counterexample:
     BUG_UNNAMED     G7 removes a mark though an outcome names its pack: nothing keeps the undelete from it
     BUG_NO_LOOK     an undelete doesn't look, after it listed the marks, whether the outcome of its backup stands
     BUG_MARKS_GO    (COPY) G7 removes marks as everywhere else
     BUG_STORED      (COPY) W3 looks for marks of packs that are stored alone
     BUG_INTENT_LATE (COPY) W1 comes after W3                                                              */
#define NONE 0
#define COMMIT 1
#define ABORT 2

bool intent[4]; byte outcome[4]; bool tombstone[4];
bool pack = true;
bool own;                            /* backup 2 has packs of its own that others need, so it isn't reaped */
bool mark[2]; bool graced[2]; bool grace[2];    /* marks of the pack; whether their grace is written, and has run 3 */

#define VALID(r) (intent[r] && outcome[r] == COMMIT && !tombstone[r])
#define OPEN(r) (intent[r] && outcome[r] == NONE)

proctype Late() { if :: atomic { pack = true } :: skip fi }
proctype Delete() { if :: atomic { tombstone[2] = true } :: skip fi }

proctype Writer() {
  byte m = 0; bool bad = false;
#ifndef COPY
  if :: atomic { outcome[2] != COMMIT -> goto out } :: atomic { outcome[2] == COMMIT -> skip } fi;
#endif
#ifndef BUG_INTENT_LATE
  atomic { intent[3] = true };                                          /* W1 */
#endif
#if defined(BUG_STORED) || !defined(COPY)
  bool there;
  atomic { there = pack };
#endif
#ifndef COPY
  bad = !there;
#endif
  do                                                                    /* W2, W3 */
  :: m < 2 ->
#ifdef BUG_STORED
     atomic { bad = bad || (mark[m] && there); m++ }
#else
     atomic { bad = bad || mark[m]; m++ }
#endif
  :: else -> break
  od;
#if !defined(COPY) && !defined(BUG_NO_LOOK)
  atomic { bad = bad || outcome[2] == NONE };
#endif
#ifdef BUG_INTENT_LATE
  atomic { intent[3] = true };
#endif
#ifdef COPY
  if :: bad -> skip :: else -> atomic { pack = true } fi;               /* W4 */
#endif
  atomic { bad = bad || !pack };                                        /* W4a */
  if
  :: bad -> atomic { if :: outcome[3] == NONE -> outcome[3] = ABORT :: else fi }
  :: else -> atomic { if :: outcome[3] == NONE -> outcome[3] = COMMIT :: else fi }  /* W5 */
  fi;
out: skip
}

proctype Collect(byte me) {
  byte m; bool listed; bool held = false; bool known[2]; bool open; bool ripe = false; bool dead2; bool dead3; bool quiet; bool named;
  atomic { listed = pack };                                             /* G1: packs, */
  atomic { held = VALID(2) };                                           /* then runs */
  atomic { held = held || VALID(3);
#ifdef COPY
    held = held || OPEN(3)
#endif
  };
  m = 0;
  do :: m < 2 -> atomic { known[m] = mark[m]; m++ } :: else -> break od;
  if
  :: listed && !held && !known[0] && !known[1] -> atomic { mark[me] = true; known[me] = true }  /* G2 */
  :: else
  fi;
  atomic { open = OPEN(3) };                                            /* G3 */
  m = 0;
  do
  :: m < 2 && known[m] -> atomic { if :: mark[m] && !graced[m] -> graced[m] = true; grace[m] = open :: else fi; m++ }
  :: m < 2 && !known[m] -> m++
  :: else -> break
  od;
  m = 0;
  do                                                                    /* G4 */
  :: m < 2 && known[m] ->
     if
     :: atomic { !grace[m] || !OPEN(3) -> ripe = true; m++ }
     :: atomic { grace[m] && OPEN(3) -> outcome[3] = ABORT; ripe = true; m++ }
     :: atomic { grace[m] && OPEN(3) -> m++ }                           /* left to a later collection */
     fi
  :: m < 2 && !known[m] -> m++
  :: else -> break
  od;
  atomic { held = VALID(2); dead2 = tombstone[2] };                     /* G5 */
  atomic { held = held || VALID(3); dead3 = intent[3] && outcome[3] == ABORT };
  if :: listed && ripe && !held -> atomic { pack = false; listed = false } :: else fi;  /* G6 */
  if                                                                    /* G7: runs, */
  :: dead2 && !own && !listed -> atomic { intent[2] = false }; atomic { outcome[2] = NONE }; atomic { tombstone[2] = false }
  :: else
  fi;
  if :: dead3 -> atomic { intent[3] = false }; atomic { outcome[3] = NONE } :: else fi;
#if defined(COPY) && !defined(BUG_MARKS_GO)
  goto out;
#endif
  atomic { quiet = !OPEN(3) };                                          /* marks */
  atomic { named = outcome[2] == COMMIT };
  atomic { named = named || outcome[3] == COMMIT };
#ifdef BUG_UNNAMED
  named = false;
#endif
  m = 0;
  do
  :: m < 2 && known[m] && quiet && !named && !listed -> atomic { mark[m] = false; graced[m] = false; grace[m] = false; m++ }
  :: m < 2 && !(known[m] && quiet && !named && !listed) -> m++
  :: else -> break
  od;
out: skip
}

init {
  atomic {
    if :: own = true :: own = false fi;
    intent[2] = true; outcome[2] = COMMIT;
    run Late(); run Delete(); run Writer(); run Collect(0); run Collect(1)
  }
}

ltl safe { [] !((VALID(2) || VALID(3)) && !pack) }

/* The collection protocol of docs/design.md: NW pushes, NG collections, a user who deletes, a reaper, and one
   contested pack P, which the backup of run 0 references from the start.

   Each atomic{} is one operation on one key. A LIST is read key by key, an answer may be lost and the outcome sent
   again, and a fence may fire at any instant. Pushes don't do W4a: all else must hold without it.

   Left out one at a time, each of these gives a counterexample:
     BUG_INTENT_LATE          W1 after W2
     BUG_NO_INTENT_CHECK      no W6 (with REAP)
     BUG_RESEND               W1 is sent again under the same run id (with REAP)
     BUG_LIST_BEFORE_CONDEMN  G3 before G2
     BUG_NO_GRACE             no G4
     BUG_NO_FENCE             G4 declares a push dead by the clock, without its outcome
     BUG_STALE_LIST           G5 uses the list of G1
     BUG_KNOWN_ONLY           G5 reads the backups again that G1 knew, and no others
     BUG_REAP_ORDER           G7 removes the outcome before the intent (with REAP)
     BUG_PARDON               a condemnation is taken back
     BUG_UNDELETE             a tombstone is taken back                                                    */
#ifndef NW
#define NW 2
#endif
#ifndef NG
#define NG 2
#endif
#define NONE 0
#define COMMIT 1
#define ABORT 2

bool intent[NW+1]; byte outcome[NW+1]; bool tombstone[NW+1];
bool refs[NW+1];                 /* the footprint holds P */
bool pack = true;                /* P is stored */
bool mark[NG];                   /* condemned/<g>, which holds P */
bool success[NW+1];              /* a push told its user so */
bool user[NW+1];                 /* the user deleted it, at any time */

#define VALID(r) (intent[r] && outcome[r] == COMMIT && !tombstone[r])

proctype Push(byte me) {
  byte g; bool may; bool ok; bool again = false;
#ifndef BUG_INTENT_LATE
  atomic { intent[me] = true };                                         /* W1 */
#endif
#ifdef BUG_RESEND
  if :: atomic { intent[me] = true } :: skip fi;
#endif
  may = true; g = 0;
  atomic { if :: !pack -> may = false :: else fi };                     /* W2: the packs that are listed, */
  do :: g < NG -> atomic { if :: mark[g] -> may = false :: else fi }; g++  /* then the marks */
     :: else -> break od;
#ifdef BUG_INTENT_LATE
  atomic { intent[me] = true };
#endif
  if :: may -> refs[me] = true :: refs[me] = false fi;                  /* W3 */
  do                                                                    /* W5 */
#ifdef BUG_NO_FENCE
  :: atomic { outcome[me] = COMMIT }; break
#else
  :: atomic { if :: outcome[me] == NONE -> outcome[me] = COMMIT :: else fi }; break
  :: !again -> atomic { if :: outcome[me] == NONE -> outcome[me] = COMMIT :: else fi }; again = true
#endif
  od;
  atomic { ok = (outcome[me] == COMMIT) };
#ifndef BUG_NO_INTENT_CHECK
  atomic { ok = ok && intent[me] };                                     /* W6 */
#endif
  if :: ok -> success[me] = true :: else fi
}

proctype Delete(byte r) {
  if :: atomic { outcome[r] == COMMIT -> user[r] = true; tombstone[r] = true } :: skip fi
}

#ifdef BUG_UNDELETE
proctype Undelete(byte r) { if :: tombstone[r] -> atomic { tombstone[r] = false } :: skip fi }
#endif

proctype Reap(byte r) {                                                 /* G7, of a run without packs of its own */
  if
  :: skip
  :: atomic { (outcome[r] == ABORT || tombstone[r]) -> skip };
#ifdef BUG_REAP_ORDER
     atomic { outcome[r] = NONE }; atomic { intent[r] = false };
#else
     atomic { intent[r] = false }; atomic { outcome[r] = NONE };
#endif
     atomic { tombstone[r] = false }
  fi
}

proctype Collect(byte me) {
  byte r; bool live = false; bool grace[NW+1]; bool known[NW+1]; bool held[NW+1];
  r = 0;                                                                /* G1: any view will do, even a wrong one */
  do :: r <= NW -> atomic { known[r] = VALID(r); held[r] = VALID(r) && refs[r] }; r++ :: else -> break od;
#ifndef BUG_LIST_BEFORE_CONDEMN
  atomic { mark[me] = true };                                           /* G2 */
#endif
  r = 0;                                                                /* G3 */
  do :: r <= NW -> atomic { grace[r] = (intent[r] && outcome[r] == NONE) }; r++ :: else -> break od;
#ifdef BUG_LIST_BEFORE_CONDEMN
  atomic { mark[me] = true };
#endif
#ifdef BUG_NO_GRACE
  r = 0; do :: r <= NW -> grace[r] = false; r++ :: else -> break od;
#endif
  r = 1;                                                                /* G4 */
  do
  :: r <= NW ->
     if
     :: !grace[r] -> r++
     :: grace[r] ->
        if
        :: atomic { (outcome[r] != NONE || !intent[r]) -> r++ }
#ifndef BUG_NO_FENCE
        :: atomic { outcome[r] == NONE && intent[r] -> outcome[r] = ABORT }
#else
        :: r++
#endif
        fi
     fi
  :: else -> break
  od;
  r = 0;                                                                /* G5 */
  do :: r <= NW ->
#ifdef BUG_STALE_LIST
        atomic { if :: held[r] -> live = true :: else fi };
#else
#ifdef BUG_KNOWN_ONLY
        atomic { if :: VALID(r) && refs[r] && known[r] -> live = true :: else fi };
#else
        atomic { if :: VALID(r) && refs[r] -> live = true :: else fi };
#endif
#endif
        r++
     :: else -> break od;
  if :: live -> skip                                                    /* stays condemned, and stays stored */
     :: else -> atomic { pack = false }                                 /* G6 */
  fi
}

#ifdef BUG_PARDON
proctype Pardon(byte g) {                                               /* saw a backup that references P, and acts late */
  byte r = 0; bool live = false;
  do :: r <= NW -> atomic { if :: VALID(r) && refs[r] -> live = true :: else fi }; r++ :: else -> break od;
  if :: live && mark[g] -> atomic { mark[g] = false } :: else fi
}
#endif

init {
  byte i;
  atomic {
    intent[0] = true; outcome[0] = COMMIT; refs[0] = true;
    i = 1; do :: i <= NW -> run Push(i); i++ :: else -> break od;
    i = 0; do :: i < NG -> run Collect(i); i++ :: else -> break od;
    run Delete(0); run Delete(1);
#ifdef REAP
    run Reap(1); run Reap(1);
#endif
#ifdef BUG_PARDON
    run Pardon(0);
#endif
#ifdef BUG_UNDELETE
    run Undelete(0);
#endif
  }
}

/* No valid backup lacks a pack, and whoever was told of success has a backup, unless the user deleted it. */
#define LOST(r) (VALID(r) && refs[r] && !pack)
#define LIED(r) (success[r] && !user[r] && !(intent[r] && outcome[r] == COMMIT))
#if NW == 1
ltl safe { [] !(LOST(0) || LOST(1) || LIED(1)) }
#else
ltl safe { [] !(LOST(0) || LOST(1) || LOST(2) || LIED(1) || LIED(2)) }
#endif

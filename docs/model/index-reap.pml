/* G7, the end of a mark. Pack P is condemned and no backup needs it; two collections remove it, the index object
   that lists it, and the mark, while two pushes begin. A push finds P by the index object. Pushes don't do W4a.

   Left out one at a time, each of these gives a counterexample:
     BUG_STALE_CACHE  a push believes an index object of its cache that isn't listed any more
     BUG_MARK_FIRST   the mark goes before the index object
     BUG_NO_GRACE     the mark goes while pushes are open that may have seen the index object          */
#define NONE 0
#define COMMIT 1
#define ABORT 2

bool pack = true; bool indexed = true; bool mark = true;
bool intent[2]; byte outcome[2]; bool refs[2];

proctype Push(byte me) {
  bool found; bool condemned; bool cached = false;
  if :: cached = true :: skip fi;
  atomic { intent[me] = true };                                         /* W1 */
  atomic { found = indexed };                                           /* W2: the index, */
#ifdef BUG_STALE_CACHE
  if :: cached -> found = true :: else fi;
#endif
  atomic { condemned = mark };                                          /* then the marks */
  if :: found && !condemned -> refs[me] = true :: else fi;              /* W3 */
  atomic { if :: outcome[me] == NONE -> outcome[me] = COMMIT :: else fi }  /* W5 */
}

proctype Collect() {
  byte r; bool grace[2];
  atomic { pack = false };                                              /* G6 */
#ifdef BUG_MARK_FIRST
  atomic { mark = false }; atomic { indexed = false }
#else
  atomic { indexed = false };                                           /* G7: index/<R>, */
#ifndef BUG_NO_GRACE
  r = 0;                                                                /* a new G3, */
  do :: r < 2 -> atomic { grace[r] = (intent[r] && outcome[r] == NONE) }; r++ :: else -> break od;
  r = 0;                                                                /* a new G4, */
  do
  :: r < 2 ->
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
  atomic { mark = false }                                               /* the mark */
#endif
}

init { atomic { run Push(0); run Push(1); run Collect(); run Collect() } }

ltl safe { [] !((outcome[0] == COMMIT && refs[0] && !pack) || (outcome[1] == COMMIT && refs[1] && !pack)) }

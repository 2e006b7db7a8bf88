select /* a /* b */ c */ 1 -- end
, 2 --';3
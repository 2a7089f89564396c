package edu.stanford.nlp.trees;

public class UniversalEnglishGrammaticalRelations {
    public static final GrammaticalRelation CASE_MARKER = new GrammaticalRelation();
    public static final GrammaticalRelation MULTI_WORD_EXPRESSION = new GrammaticalRelation();
    public static final GrammaticalRelation NUMERIC_MODIFIER = new GrammaticalRelation();
    public static final GrammaticalRelation PHRASAL_VERB_PARTICLE = new GrammaticalRelation();
}
